"""An extension of ComfyUI's page: it reloads once when its login has ended (docs/sites.md).

Copy this folder to ComfyUI's custom_nodes/. It adds no nodes and changes nothing in ComfyUI.
"""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
WEB_DIRECTORY = "./web"
