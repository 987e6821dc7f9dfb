"""A whole pipeline: it says of each image whether it is bright."""

from ai_pipeline import contract
from ai_pipeline.contract import Decision

BRIGHT = contract.Code("BRIGHT", "99OURS", "Bright image")


class Options(contract.PipelineOptions):
    limit: float = contract.option(100.0, "Bright from", "mean of the grey levels", ge=0, le=255)
    """The mean of all grey levels (0 to 255) above which an image is bright."""


class Bright:
    card = contract.PipelineCard(
        name="bright", version="1.0", about="Finds bright images.", options=Options, codes=(BRIGHT,)
    )
    model = contract.ModelRef("brightness", "1.0", sha256="0" * 64, card_sha256="0" * 64)

    def warm_up(self): ...  # import and load what is heavy here, not at the top of the module

    def models(self):
        return (self.model,)

    def accepts(self, images, options=None):
        return contract.Accept(tuple(image.uid for image in images))

    def run(self, images, report, options):
        limit = Options.of(options).limit
        return contract.PipelineResult(
            findings=tuple(self._finding(image, limit) for image in images), models=self.models()
        )

    def _finding(self, image, limit):
        decision = Decision.PRESENT if image.display().mean() > limit else Decision.ABSENT
        return contract.Finding("Bright image", BRIGHT, None, None, decision, image.uid, self.model)
