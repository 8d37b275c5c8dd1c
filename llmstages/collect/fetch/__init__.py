"""Fetching web pages politely, once.

`urls` spells URLs alike, `blocklist` says which domains are left alone, `addresses` which machines
may be asked at all, `robots` reads robots.txt, `hosts` keeps the pace, `unpacking` and `client` do
one request within limits, `cache` keeps what was fetched, and `crawl` puts them together in
`fetch_pages`, the only function others need.
"""
