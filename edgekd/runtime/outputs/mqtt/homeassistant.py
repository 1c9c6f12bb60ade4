"""The discovery message for Home Assistant: one device with its entities, in one retained message.

Format: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. An empty retained message on the same
topic removes the device: mosquitto_pub -r -n -t homeassistant/device/ID/config.
"""

import re
from typing import Any

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import NO_LABELS

BIRTH, BORN = "status", b"online"
"""Topic below the prefix on which Home Assistant reports its start, and the payload."""


def device_id(topic: str) -> str:
    """The identifier of a device: `topic` with an underscore for each character that Home Assistant refuses."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", topic)


def config_topic(prefix: str, topic: str) -> str:
    """The topic of the discovery message."""
    return f"{prefix}/device/{device_id(topic)}/config"


def device(topic: str, name: str, manifest: Manifest, expire_s: int, version: str) -> dict[str, Any]:
    """The discovery payload of the listener whose topics begin with `topic`. Its values become unavailable after
    `expire_s` seconds without a message."""
    identifier = device_id(topic)
    options = [
        label.strip() for label in (*manifest.labels, *NO_LABELS)
    ]  # Home Assistant strips the result of a template
    fresh = {"expire_after": expire_s}
    diagnostic = {"entity_category": "diagnostic"}
    state, probabilities, health = (f"{topic}/{part}" for part in ("state", "probabilities", "health"))
    entities: dict[str, dict[str, Any]] = {
        "label": {
            "platform": "sensor",
            "name": "Sound",
            "icon": "mdi:ear-hearing",
            "device_class": "enum",
            "options": list(dict.fromkeys(options)),
            "state_topic": state,
            "value_template": "{{ value_json.label }}",
            **fresh,
        },
        "probability": {
            "platform": "sensor",
            "name": "Probability",
            "icon": "mdi:percent",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 0,
            "state_topic": probabilities,
            "value_template": "{{ (100 * value_json.probability) | round(2) }}",
            **fresh,
        },
        "problem": {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "state_topic": health,
            **diagnostic,
            "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
            "json_attributes_topic": health,
            "json_attributes_template": "{{ {'reason': value_json.reason, 'outputs': value_json.outputs} | tojson }}",
        },
        "source": {
            "platform": "sensor",
            "name": "Source",
            "icon": "mdi:microphone",
            "device_class": "enum",
            "options": ["HEALTHY", "RECOVERING", "FAILED"],
            "state_topic": health,
            "value_template": "{{ value_json.state }}",
            **diagnostic,
        },
        "level": {
            "platform": "sensor",
            "name": "Level",
            "icon": "mdi:volume-high",
            "unit_of_measurement": "dBFS",
            "state_class": "measurement",
            "state_topic": probabilities,
            "value_template": "{{ value_json.level }}",
            **fresh,
            **diagnostic,
        },
        "drops": {
            "platform": "sensor",
            "name": "Samples dropped",
            "icon": "mdi:waveform",
            "state_class": "total_increasing",
            "state_topic": health,
            "value_template": "{{ value_json.drops }}",
            **diagnostic,
        },
        "reconnects": {
            "platform": "sensor",
            "name": "MQTT reconnects",
            "icon": "mdi:connection",
            "state_class": "total_increasing",
            "state_topic": health,
            "value_template": "{{ value_json.reconnects }}",
            **diagnostic,
        },
    }
    return {
        "device": {
            "identifiers": [identifier],
            "name": name,
            "manufacturer": "edgekd",
            "model": manifest.name,
            "sw_version": version,
        },
        "origin": {"name": "edgekd", "sw_version": version},
        "components": {key: {"unique_id": f"{identifier}_{key}", **entity} for key, entity in entities.items()},
        "availability_topic": f"{topic}/availability",
        "qos": 1,
    }
