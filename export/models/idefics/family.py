"""IDEFICS, as the exporter asks for it."""

from transformers.models.idefics.modeling_idefics import IdeficsForVisionText2Text

from ..family import Family
from . import channels, config, parameters, processor, reference, traced, worth

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
    norms=reference.NORMS,
    prepare=reference.prepare,
    rotations=reference.rotations,
    image_features=reference.image_features,
    hidden_states=reference.hidden_states,
    places=reference.places,
    parameter_of=parameters.parameter_of,
    worth=worth.worth,
    channels=channels.channels,
    check_processor=processor.check,
    tokens=processor.TOKENS,
    adapted=processor.adapted,
    complete=processor.complete,
)
