"""Teachers: what single-task networks or a published version answer to the training examples, for a network to learn.

Source: Clark et al., "BAM! Born-Again Multi-Task Networks for Natural Language Understanding", ACL 2019; several teachers
and their mean as in Liu et al., "Improving Multi-Task Deep Neural Networks via Knowledge Distillation", 2019.
"""
