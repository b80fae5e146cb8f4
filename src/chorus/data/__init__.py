"""From recordings to rows: manifests, audio, features, checks, synthetic speech."""
