"""For those who come from another system: its calls, carried out by relprop.

Each module speaks the language of one system and is imported when it is used: `captum`, `julia`
(RelevancePropagation.jl), `pnpxai`, `zennit`, `quantus`. None has a rule or an engine of its own. The tables of their
calls beside ours are in docs/coming-from.
"""
