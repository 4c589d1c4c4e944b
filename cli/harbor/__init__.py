"""``ics harbor``: point Harbor projects at ICS."""
