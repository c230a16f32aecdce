"""The paper's backbone: DINOv2 and SigLIP side by side, a projector, Qwen2.5."""
