"""What each tensor is for: from config and names to component, kind, layer, tied, learned or not."""
