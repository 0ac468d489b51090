"""What every transport shares above its wire: frames, flow control, channels, requests, bodies, peers, bans, handshake.

A transport plugin brings authenticated, ordered, message-preserving links (``nodewright.transport.link.Link``) and hands
each to ``PeerHub.serve``. Nothing here opens a socket.
"""
