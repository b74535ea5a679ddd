"""Events, detections and run folders as text and pictures."""
