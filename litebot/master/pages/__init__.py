"""The frame of litebot's own pages, under /litebot/: what features show there, and who may act."""
