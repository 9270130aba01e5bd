"""`relprop.captum.LRP` and `relprop.captum.LayerLRP`: Captum's calls, carried out by relprop."""

from relprop.adapters.captum import LRP as LRP
from relprop.adapters.captum import LayerLRP as LayerLRP
