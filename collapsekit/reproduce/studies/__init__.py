"""What items train and measure: data, subjects, repairs."""
