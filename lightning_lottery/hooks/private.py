"""Every private name of Lightning that this package uses, with the version on which each was checked.

Nothing else in the package names one: what breaks with a new Lightning breaks here.

Checked on Lightning 2.6.6.
"""
