"""First-party components: registered through the same door as anyone's."""
