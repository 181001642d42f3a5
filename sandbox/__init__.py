"""Everything for one machine: embedded PostgreSQL and Valkey, and stand-ins for the CRM, the Graph API and SMTP.

Imported by the command line and by tests only. It depends on no other package of the project except
`config`, so that a stand-in cannot share a mistake with the code it is there to check.
"""
