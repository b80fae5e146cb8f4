"""openai-whisper's `.pt`: ten dimensions and a state dict, as `torch.save` lays them out.

What `whisper.load_model(PATH)` asks for is known from openai-whisper 20250625 (load_model, ModelDimensions).
"""
