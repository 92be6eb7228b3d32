"""The same diagnosis from Python, of models that were never saved: as trained, and with the shape normalised."""

from train import accuracy, prepare, train

import collapsekit

config = {
    "modalities": {"shape": "shape_encoder", "pixels": "pixel_encoder"},
    "fusion": "fusion",
    "data": {"path": "data.safetensors"},
}
data = prepare()
for normalise in (False, True):
    model = train(data, normalise)
    report = collapsekit.diagnose(model=model, config=config, profile="quick", probes=["reliance", "utilisation"])
    print(f"normalise={normalise}: accuracy {accuracy(model, data):.3f}, {report.verdict}. {report.summary}")
    for name, verdict in report.modalities.items():
        missing = ", ".join(f"{cost:.2f} without {other}" for other, cost in verdict.costs_if_missing.items())
        print(f"  {name}: {verdict.verdict}, ignored {verdict.score:.2f}, costs {missing}")
