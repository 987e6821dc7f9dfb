"""Records of the audit as DICOM audit messages (PS3.15 A.5), sent to an audit record repository by syslog."""
