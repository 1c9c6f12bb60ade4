"""The discovery message for Home Assistant, checked against Home Assistant's documentation."""

import json
import re

import jinja2
import msgspec
import numpy as np
import pytest
from runtime.toy_listener import MANIFEST

from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.mqtt.homeassistant import config_topic, device, device_id
from edgekd.runtime.outputs.mqtt.messages import PendingMessages, PublishSettings
from edgekd.runtime.source.capture import CaptureCounts
from edgekd.runtime.source.health import StatusLine

# Keys and rules from https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload (required and shared
# options, device and origin), /integrations/sensor.mqtt/, /integrations/binary_sensor.mqtt/, and
# developers.home-assistant.io/docs/core/entity/sensor (state classes, device classes). True: required.
ROOT = {
    "device": True,
    "origin": True,
    "components": True,
    "availability": False,
    "availability_topic": False,
    "availability_mode": False,
    "availability_template": False,
    "payload_available": False,
    "payload_not_available": False,
    "state_topic": False,
    "command_topic": False,
    "qos": False,
    "encoding": False,
}
DEVICE = dict.fromkeys(
    (
        "identifiers",
        "connections",
        "manufacturer",
        "model",
        "model_id",
        "name",
        "hw_version",
        "sw_version",
        "serial_number",
        "suggested_area",
        "via_device",
        "configuration_url",
    ),
    False,
)
ORIGIN = {"name": True, "sw_version": False, "support_url": False}
ENTITY = {
    "platform": True,
    "unique_id": True,
    "state_topic": True,
    **dict.fromkeys(
        (
            "availability",
            "availability_topic",
            "availability_mode",
            "availability_template",
            "payload_available",
            "payload_not_available",
            "default_entity_id",
            "device_class",
            "enabled_by_default",
            "encoding",
            "entity_category",
            "entity_picture",
            "expire_after",
            "force_update",
            "icon",
            "json_attributes_template",
            "json_attributes_topic",
            "name",
            "qos",
            "value_template",
        ),
        False,
    ),
}
PLATFORMS = {
    "sensor": (
        ENTITY
        | dict.fromkeys(
            (
                "last_reset_value_template",
                "options",
                "state_class",
                "suggested_display_precision",
                "unit_of_measurement",
            ),
            False,
        )
    ),
    "binary_sensor": ENTITY | dict.fromkeys(("off_delay", "payload_off", "payload_on"), False),
}
DEVICE_CLASSES = {
    "sensor": {
        "enum",
        "battery",
        "duration",
        "sound_pressure",
        "signal_strength",
        "timestamp",
        "data_size",
        "data_rate",
        "temperature",
    },
    "binary_sensor": {
        "battery",
        "connectivity",
        "motion",
        "occupancy",
        "presence",
        "problem",
        "running",
        "safety",
        "smoke",
        "sound",
    },
}
STATE_CLASSES = {"measurement", "measurement_angle", "total", "total_increasing"}
DISCOVERY_TOPIC = re.compile(r"[^/]+/device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")

DECISION = Decision(1.0, "low", 0.8765, (("low", 0.8765), ("high", 0.1)), "HEALTHY", 0.1, 7)
SETTINGS = PublishSettings("edgekd/kitchen", "Kitchen", "homeassistant", 5.0, 60, 10, "1.2")


def problems(payload: dict) -> list[str]:
    """What Home Assistant would refuse or ignore in a discovery payload."""
    found = (
        wrong_keys("root", payload, ROOT)
        + wrong_keys("device", payload["device"], DEVICE)
        + wrong_keys("origin", payload["origin"], ORIGIN)
    )
    known = [entity.get("unique_id") for entity in payload["components"].values()]
    wrong = {
        "device: neither identifiers nor connections": not {"identifiers", "connections"} & payload["device"].keys(),
        "qos": payload.get("qos", 0) not in (0, 1, 2),
        "unique ids are not": len(set(known)) < len(known),
    }
    found += [what for what, is_so in wrong.items() if is_so]
    for name, entity in payload["components"].items():
        platform = entity.get("platform")
        found += [f"{name}: platform"] if platform not in PLATFORMS else wrong_entity(name, entity, platform)
    return found


def wrong_entity(name: str, entity: dict, platform: str) -> list[str]:
    options, expire = entity.get("options", ()), entity.get("expire_after", 0)
    wrong = {
        "device class": entity.get("device_class") not in {None, *DEVICE_CLASSES[platform]},
        "entity category": entity.get("entity_category") not in (None, "diagnostic"),  # "config" is not for sensors
        "state class": entity.get("state_class") not in {None, *STATE_CLASSES},
        "expire_after": type(expire) is not int or expire < 0,
        "options are for the class enum": ("options" in entity) != (entity.get("device_class") == "enum"),
        "options with a state class or unit": (
            "options" in entity and bool({"state_class", "unit_of_measurement"} & entity.keys())
        ),
        "options are none or not unique": "options" in entity and not 0 < len(set(options)) == len(options),
        "icon": not entity.get("icon", "mdi:").startswith("mdi:"),
    }
    return wrong_keys(name, entity, PLATFORMS[platform]) + [f"{name}: {what}" for what, is_so in wrong.items() if is_so]


def wrong_keys(where: str, given: dict, allowed: dict) -> list[str]:
    missing = [f"{where}: no {key}" for key, required in allowed.items() if required and key not in given]
    return missing + [f"{where}: {key} is unknown" for key in given if key not in allowed]


def discovery(labels: tuple[str, ...] = MANIFEST.labels) -> dict:
    return json.loads(
        msgspec.json.encode(
            device("edgekd/kitchen", "Kitchen", msgspec.structs.replace(MANIFEST, labels=labels), 60, "1")
        )
    )


def test_the_payload_has_what_is_required_and_nothing_unknown():
    assert problems(discovery()) == []
    assert DISCOVERY_TOPIC.fullmatch(config_topic("homeassistant", "edgekd/Küche 1"))
    assert device_id("edgekd/Küche 1") == "edgekd_K_che_1"


@pytest.mark.parametrize(
    "broken",
    [
        {"platform": "microphone"},
        {"unit_of_measurement": "dB"},
        {"options": []},
        {"expire_after": 1.5},
        {"device_class": "noise"},
        {"state_clas": "total"},
        {"entity_category": "config"},
        {"unique_id": "edgekd_kitchen_level"},
        {"options": ["a", "a"]},
    ],
)
def test_the_check_sees_what_is_wrong(broken):
    wrong = discovery()
    wrong["components"]["label"] |= broken
    assert problems(wrong)


def test_unknown_and_quiet_are_options_and_no_option_is_there_twice():
    assert discovery()["components"]["label"]["options"] == ["low", "middle", "high", "unknown", "quiet"]
    assert discovery(("a ", "a", "unknown"))["components"]["label"]["options"] == ["a", "unknown", "quiet"]


@pytest.mark.parametrize(
    ("decision", "values"),
    [
        (
            DECISION,
            {
                "label": "low",
                "probability": "87.65",
                "problem": "ON",
                "source": "FAILED",
                "level": "-20.0",
                "drops": "7",
            },
        ),
        (
            msgspec.structs.replace(DECISION, label="unknown", rms=0.0, state="FAILED"),
            {"label": "unknown", "level": "None"},
        ),
    ],
)
def test_templates_read_what_is_published(decision, values):
    pending = PendingMessages(SETTINGS)
    pending.add(StatusLine(0.5, "FAILED", 'no <sound> of "it"'), None)
    counts = CaptureCounts(9, 9, 0, 0, 0, 0, 0, 0.0)
    pending.add(
        msgspec.structs.replace(decision, state="FAILED"),
        Observation(MANIFEST, np.zeros(3, np.float32), None, 0.0, 0.0, counts),
    )
    published = {}
    while (message := pending.next()) is not None:
        published[message.topic] = message
    payload = json.loads(published["homeassistant/device/edgekd_kitchen/config"].payload)
    assert published["homeassistant/device/edgekd_kitchen/config"].retain
    rendered = {}
    for key, entity in payload["components"].items():
        source = json.loads(published[entity["state_topic"]].payload)
        rendered[key] = jinja2.Template(entity["value_template"], undefined=jinja2.StrictUndefined).render(
            value_json=source
        )
        if "options" in entity:
            assert rendered[key] in entity["options"]
    assert rendered == rendered | values
    health = json.loads(published["edgekd/kitchen/health"].payload)
    attributes = jinja2.Template(payload["components"]["problem"]["json_attributes_template"]).render(value_json=health)
    assert json.loads(attributes) == {"reason": 'no <sound> of "it"', "outputs": {}}


def test_values_expire_and_all_goes_with_the_listener():
    payload = discovery()
    assert {key for key, entity in payload["components"].items() if entity.get("expire_after") == 60} == {
        "label",
        "probability",
        "level",
    }
    assert payload["availability_topic"] == PendingMessages(SETTINGS).availability(online=True).topic
    assert (
        PendingMessages(SETTINGS).availability(online=False).payload == b"offline"
    )  # as Home Assistant takes it by default
