"""The client library against a real papad, directly and through a relay that cuts connections as a restart would."""
