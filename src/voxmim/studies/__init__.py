"""Studies: experiments that compare several trainings."""
