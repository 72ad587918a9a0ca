"""What each kind of component promises: one small file per kind, no behaviour beyond defaults."""
