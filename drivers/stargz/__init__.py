"""What eStargz and zstd:chunked share: layers cut into independently compressed members, and the table of contents behind them."""
