"""Starting workers: in this process, on this machine, or inside an environment that a cluster launcher made."""
