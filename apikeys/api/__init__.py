"""The REST surface: the ComfyUI contract and the validation API.

Serializers describe the wire, endpoints ask the services; nothing is decided here.
"""
