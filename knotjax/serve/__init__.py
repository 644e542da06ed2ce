"""The live page and its server: `knotjax serve`. Needs the extra `serve`."""
