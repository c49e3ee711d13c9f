"""What a process can say about its own logging: for its status file and the doctor. Changes nothing it looks at."""
