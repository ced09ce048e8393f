"""What is a healed model drawn to? One file a loss."""
