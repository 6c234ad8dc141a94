"""The page: try prompts on clips, review and correct a run, watch live video. The only place that knows FastAPI.

    browser <-> _server (routes) -> _library, _stills (clips and their exact frames)
                                 -> _desk (the queue) <-> _model_process (the model, in a separate process)
                                 -> _review (a run and its corrections), _downloads, _outgoing

Nothing here is reachable without the token that `serve` prints, and no path that a client names is opened.
"""

from sam3ray.app._options import AppOptions
from sam3ray.app._start import serve

__all__ = ["AppOptions", "serve"]
