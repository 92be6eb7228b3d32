"""What an answer is worth: loss, metric and expectations of each kind of task."""
