"""What a process can say about its own logging: for its status file and the doctor. Changes nothing it looks at.

Called by the writer and the doctor, on their threads. Imports the pipeline and the core.
"""
