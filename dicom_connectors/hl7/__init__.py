"""Reports as HL7 v2 messages: ORU^R01 (HL7 2.5.1 chapter 7) over MLLP, and the acknowledgements of them."""
