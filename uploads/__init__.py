"""Files of ComfyUI's API nodes: taken for a day, and handed to providers by a signed URL."""
