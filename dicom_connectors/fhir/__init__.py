"""Reports as resources of HL7 FHIR R4 (4.0.1), built from their SR files, and sent over HTTP."""
