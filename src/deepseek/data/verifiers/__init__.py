"""What a right answer is: problems that code can check, and the verifiers that check them."""
