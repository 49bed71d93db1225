"""What the cluster is measured by: scaling, recovery, resume, drain, soak; a command each (`__main__`)."""
