"""OAuth: how a machine or a site is given a key of its own without anybody copying one."""
