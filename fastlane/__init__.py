"""The fast lane: answers a validation in front of Django while nothing can have changed.

Knows nothing of Django but its WSGI entry. What an answer is, the endpoints alone define: the lane
repeats what they said, byte for byte, for as long as the table of epochs vouches for it.
"""
