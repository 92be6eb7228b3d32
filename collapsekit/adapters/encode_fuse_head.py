"""EncodeFuseHeadAdapter: a model as three functions that a user writes, where YAML is not enough."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from collapsekit.adapters.base import Activations, Adapter, Change, ForwardPass, Prediction, TrainPass
from collapsekit.adapters.pooling import pool_fused
from collapsekit.adapters.predictions.sampling import answer_over_seeds, average_passes, average_predictions
from collapsekit.data.base import Batch
from collapsekit.user_code.process_state import user_code

PLACE = "the adapter's encode, fuse or head"  # for messages


class EncodeFuseHeadAdapter(Adapter, by_parts=True):
    """Subclass this where YAML is not enough: write ``encode``, ``fuse`` and ``head``, and name it in the config
    as ``adapter: my_module:MyAdapter``. ``self.model`` is the config's model with the checkpoint's weights."""

    @abstractmethod
    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Encode a batch: features (n, ...) of every modality, first axis the example."""

    @abstractmethod
    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse features (n, ...) of every modality into the multimodal representation (n, ...), first axis the example."""

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """Predict (n, ...) from the representation (n, ...): logits, values, or two embeddings side by side."""

    def run(self, batch: Batch) -> ForwardPass:
        return answer_over_seeds(self, lambda: self._run(batch), average_passes)

    def _run(self, batch: Batch) -> ForwardPass:
        with user_code(PLACE):
            features = self._encoded(batch)
            fused = self.fuse(features)
            outputs = self.head(fused)
        outputs = self.scores_of(outputs, batch)
        recorded: dict[str, Activations] = {m: (features[m],) for m in self.modalities}
        pooled = {m: self.pool(m, features[m], batch) for m in self.modalities}
        return ForwardPass(recorded, pooled, Prediction(pool_fused(self.model, self.config.fusion, fused), outputs))

    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        return answer_over_seeds(self, lambda: self._rerun(recorded, inputs), average_predictions)

    def _rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        self.steady()
        with user_code(PLACE):
            fused = self.fuse({m: recorded[m][0].to(self.device) for m in self.modalities})
            outputs = self.head(fused)
        outputs = self.scores_of(outputs, inputs)
        return Prediction(pool_fused(self.model, self.config.fusion, fused), outputs)

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        del recorded
        with user_code(PLACE):
            features = self._encoded(inputs)[modality]
        return self.pool(modality, features, inputs)

    def run_live(self, batch: Batch, change: Mapping[str, Change] | None = None) -> TrainPass:
        self.unsteady = None
        with user_code(PLACE):
            features = self._encoded(batch)
        changed = {m: change[m](f) if change is not None and m in change else f for m, f in features.items()}
        with user_code(PLACE):
            outputs = self.head(self.fuse(changed))
        outputs = self.scores_of(outputs, batch)
        return TrainPass({m: self.pool(m, features[m], batch) for m in self.modalities}, outputs)

    def _encoded(self, batch: Batch) -> dict[str, Tensor]:
        self.steady()
        given = self.apart(batch)
        features = self.encode(given)
        self.note_written(batch, given)
        return features
