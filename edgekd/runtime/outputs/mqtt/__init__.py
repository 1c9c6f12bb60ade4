"""The output `[mqtt]`: decisions for an MQTT broker, and discovery by Home Assistant.

Needs paho-mqtt, which only `connection` imports, late. Credentials appear in no message, error or `repr`.
"""
