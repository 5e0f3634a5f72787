"""What joins an ensemble and with which weight, from stored out-of-fold predictions."""
