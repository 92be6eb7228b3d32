"""Train the policy and save the folder policy/: seconds on a CPU. ``--hand`` reads the wrist camera by its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from data import Frames, loaders
from model import STATE, TOP, WRIST, Policy, build
from safetensors.torch import save_file
from torch.utils.data import DataLoader


def save(policy: Policy) -> None:
    """Write policy/ as LeRobot does: config.json beside model.safetensors."""
    pictures = {key: {"type": "VISUAL", "shape": [1, 12, 12]} for key in (TOP, WRIST)}
    config = {
        "type": "flow",
        "n_action_steps": 4,
        "input_features": {**pictures, STATE: {"type": "STATE", "shape": [2]}},
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    }
    Path("policy").mkdir(exist_ok=True)
    Path("policy/config.json").write_text(json.dumps(config, indent=2))
    save_file(policy.state_dict(), "policy/model.safetensors")


def main() -> None:
    """Write policy/."""
    torch.manual_seed(0)
    policy = build().train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    frames = Frames("train", wrist="hand" if "--hand" in sys.argv else "wrist")
    for _ in range(60):
        for batch in DataLoader(frames, batch_size=100, shuffle=True):
            loss = policy.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    policy.eval()
    save(policy)
    with torch.no_grad():
        errors = [(policy(batch) - batch["action"]).abs() for batch in loaders()["test"]]
    print(f"mean error of an action {torch.cat(errors).mean():.3f}; wrote policy/")


if __name__ == "__main__":
    main()
