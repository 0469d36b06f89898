"""The REST API: ComfyUI's endpoints, validation and management of keys.

Serializers describe requests and responses, and views call `apikeys.services`, which have the
rules.
"""
