"""Starting the processes of a run: torch's elastic agent, and Ray Train."""

# The commands that can run as several processes.
LAUNCHED = ("train", "test", "run_net", "finetune")
