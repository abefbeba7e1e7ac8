"""What this recipe shares with models/tiny/train, imported from there: nothing is copied.

That folder is put at the END of the module path, so no module here may have the name of one of its modules.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.append(os.path.join(ROOT, "models", "tiny", "train"))

from data import draw_masks, opening, up                                                        # noqa: E402,F401
from export import export, write_safetensors                                                    # noqa: E402,F401
from model import (BLOCK_LENGTHS, EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, MASK, PAD, Shape,    # noqa: E402,F401
                   rope_tables, shape_dict)
from optimiser import orthogonalise                                                             # noqa: E402,F401
from prepare import key, rows, short_comment, split_comment                                     # noqa: E402,F401
from sample import generate                                                                     # noqa: E402,F401
from tokenizer import Tokenizer, truncate                                                       # noqa: E402,F401
