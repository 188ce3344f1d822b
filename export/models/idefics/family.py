"""IDEFICS, as the exporter asks for it."""

from transformers import IdeficsForVisionText2Text

from ..family import Family
from . import config, parameters, processor, traced

IDEFICS = Family(
    name="idefics",
    title="IDEFICS",
    reference=IdeficsForVisionText2Text,
    load=config.load,
    sizes=config.sizes,
    fit_vocabulary=config.fit_vocabulary,
    tables=parameters.TABLES,
    tables_of=traced.tables_of,
    graphs=traced.graphs,
    example=traced.example,
    made_of=parameters.made_of,
    parameters=parameters.parameters,
    check_processor=processor.check,
    tokens=processor.TOKENS,
    adapted=processor.adapted,
    complete=processor.complete,
)
