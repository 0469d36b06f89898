"""The command line of a clone. An installed wheel has it as `comfyui-keys`."""

from server.command_line import main

if __name__ == "__main__":
    main()
