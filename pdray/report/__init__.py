"""The run as one HTML page. Reads what the stages wrote, locally or on object storage; needs no Ray."""

PAGE = "report.html"  # in the run folder
