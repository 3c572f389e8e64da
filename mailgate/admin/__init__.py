"""Looking after the running gateway: HTTP with JSON on the control socket and on `admin` addresses, metrics, health.

settings.py declares `admin`; access.py says who may do what; site.py is HTTP; views.py has the table of routes and what they
answer; doors.py keeps the sockets through reloads.
"""
