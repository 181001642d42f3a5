"""What may be turned: environment settings, integration specs and the beat timetable. Nothing here acts."""
