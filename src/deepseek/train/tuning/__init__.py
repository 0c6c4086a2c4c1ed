"""Fine-tuning: answers, preferences and rewards on a trained model, whole or by low rank."""
