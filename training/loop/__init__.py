"""The training loop: sampling, losses, optimiser steps, several processes, interrupts."""
