"""Fine-tuning: full and adapters, one or many specialists, resumable."""
